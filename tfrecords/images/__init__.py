"""From image files to pixels: decoding, DICOM, encoding and resizing."""
