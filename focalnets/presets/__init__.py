"""Tables of networks, their cost, and the preset directory in which a network is kept."""
