"""HTTP: receiving, routes, protocols, problems. The only floor that knows the web server."""
