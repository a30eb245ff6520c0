"""Packaging of cxr-stream. Beam stages this file to remote workers (`--setup_file ./setup.py`)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

BASE = [
    "numpy>=2.1,<2.5",
    "protobuf>=6.31.1,<7",
    "google-crc32c>=1.6",
    "blake3>=1.0",
    "simplejpeg>=1.8",
    "opencv-python-headless>=5",  # older ones take damaged PNGs
    "pillow>=12.1.1,<13",
    "requests>=2.31",
    "tqdm>=4.66",
    "tabulate>=0.9",
    "jinja2>=3.1",
]
EXTRAS = {
    # What runs the preprocessing job and its workers: no TensorFlow.
    "beam": ["apache-beam>=2.77,<3", "scikit-learn>=1.6", "tensorboard>=2.21"],
    # Parquet and Excel tables of labels.
    "tables": ["pyarrow>=18", "openpyxl>=3.1"],
    # What reads data sets and trains: no Beam.
    "train": [
        "numba>=0.65",
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<4",
        "tensorboard>=2.21",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources>=6",  # which tensorflow-datasets imports and does not declare
        "scikit-learn>=1.6",
        "matplotlib>=3.10",
    ],
    "dicom": [
        "pydicom>=3.0",
        "pylibjpeg>=2.0",
        "pylibjpeg-openjpeg>=2.4",
        "pylibjpeg-rle>=2.1",
        "python-gdcm>=3.0.24",
    ],
    "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
    "jax": ["jax>=0.8"],
    "test": [
        "jax>=0.8",  # the trainer's tests run on both backends
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.15",
        "mypy>=1.15",
    ],
}
EXTRAS["tune"] = [*EXTRAS["train"], "keras-tuner>=1.4.8", "grpcio", "rich"]
EXTRAS["all"] = sorted({need for name in ("beam", "tables", "train", "tune", "dicom") for need in EXTRAS[name]})

setup(
    name="cxr-stream",
    version="0.1.0",
    description="Chest X-rays at full resolution: Apache Beam to TFRecords, tf.data to Keras, KerasTuner over both",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["cxr*", "tfrecords*", "beam_jobs*", "phantoms*", "trainer*", "tuner*"]),
    package_data={"": ["*.html", "*.css", "*.toml"]},
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["cxr=cxr.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
