"""Decoding strategies: functions (parameters, Decoder)."""
