"""The version of the client, which is that of the server it comes with."""

VERSION = "0.1.0"
