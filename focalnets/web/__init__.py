"""The network in a web page: a folder that needs no server and no connection."""
