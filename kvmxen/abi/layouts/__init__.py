"""The structures of the ABI as construct layouts; tests check the other definitions by them.

They have modules of their own, because construct is slow to import and no boot needs it.
"""
