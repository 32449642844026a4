"""The formats of shared rings, and of xenstore's wire and state, as construct layouts.

They have modules of their own, because construct is slow to import and no boot needs it.
"""
