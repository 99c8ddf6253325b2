"""Ink to pictures: rasterising, views, and masks over the ink."""
