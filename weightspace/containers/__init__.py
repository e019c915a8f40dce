"""What checkpoint formats are packed in: zip archives, pickles, protobuf messages, HDF5 files, torch's own trees; read as data, never executed."""
