"""Where images to try things on come from: synthetic chest X-rays, and a public data set to download."""
