"""Forecasts that are written down before what they speak of: the record of all kinds of them."""
