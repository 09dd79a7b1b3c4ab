"""The panel: a page that people keep open. HTML from the server, live by SSE; who looks is told by a session of his own.

Fragments of HTML go over the stream and not JSON: what a page shows is then written once, in the templates, the same at the first
load and a year later, and shows without a script too. A fragment is made once a change for all who read the same language, is
sent only to those who have not got it, and is morphed into the page, so that focus, selection and a screen reader's place stay.
"""

from gate.http.auth.session import enter
from gate.http.panel import actions, job_page, pool_page, sign_in

ROUTERS = (pool_page.router, job_page.router, actions.router, sign_in.router)

__all__ = ["ROUTERS", "enter"]
