"""What comes out: edits of layers, the compact model made of them, exports."""
