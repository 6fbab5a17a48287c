"""The program said a second time: a readable reference, a verifier, the exact linear relaxation."""
