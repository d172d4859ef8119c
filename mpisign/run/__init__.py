"""A job from its plan to its summary: plan (pure), setup (collective), job (the loop), and what they write and tell."""
