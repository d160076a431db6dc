"""The all-in-one run: engines from wheels, the services and the gateway, under one parent."""
