"""Conversion of weights between focalnets and other libraries."""
