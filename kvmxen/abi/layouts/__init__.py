"""The structures of the ABI as construct layouts, which tests hold the rest to.

They have modules of their own, for construct takes long to import and no boot needs them.
"""
