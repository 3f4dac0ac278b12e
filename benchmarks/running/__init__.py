"""Contenders in processes of their own: what starts one, what runs in it, the frameworks."""
