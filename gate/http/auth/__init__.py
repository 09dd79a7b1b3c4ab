"""Who may call: roles of the routes, keys, sessions of the page."""
