"""Parts of `benches/peers`: servers (what runs), measure (how it is measured), report (what is printed)."""
