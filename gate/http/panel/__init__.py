"""The panel: web pages for operators, made on the server and kept current by Server-Sent Events.

The stream carries fragments of HTML, not JSON. So the templates alone define what a page shows, at the first load and after
each change, and a page works without a script. A fragment is made once for each change and language, and is sent only to
pages that do not have it yet. The script morphs it into the page, so focus, selection and the position of a screen reader
stay.
"""

from gate.http.auth.session import enter
from gate.http.panel import actions, job_page, pool_page, sign_in
from gate.http.panel.routing import unknown_page

ROUTERS = (pool_page.router, job_page.router, actions.router, sign_in.router)

__all__ = ["ROUTERS", "enter", "unknown_page"]
