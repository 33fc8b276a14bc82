"""The paper's tables: what is trained, what is read off, and how it stands beside what the paper prints."""
