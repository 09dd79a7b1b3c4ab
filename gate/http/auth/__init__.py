"""Authentication and authorisation: roles of the routes, API keys, browser sessions."""
