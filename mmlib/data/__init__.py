"""What is read: CROHME, folders, pictures and photographs, as packs of ink, split and batched."""
