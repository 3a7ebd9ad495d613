"""Scores and maps taken back to where a lab works: profile tables, AnnData, images.

``wide``, ``profiles``, ``tables`` and ``annotated`` need no torch; ``stitching`` lays maps into the
fields that crops were cut from, ``images`` writes them, and ``viewing`` shows crops in napari.
"""
