"""The contenders: fanout, hand-written programs and other clients, one per module."""
