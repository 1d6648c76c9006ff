"""`focalnets serve`: exported networks behind HTTP. It needs a runtime, but neither Keras nor a backend."""
