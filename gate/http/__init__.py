"""The HTTP interface: routes, authentication, middleware and the panel."""
