"""Proposers: functions (parameters, Decoder, Proposal, count, weights) that add `count` stages to the proposal. No torch."""
