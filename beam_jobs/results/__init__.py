"""What a job leaves beside its shards: audit, manifest, closing report and TensorBoard logs."""
