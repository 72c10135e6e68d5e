"""What ships for many replicas: a Ray Serve application here, and beside it a compose file and Kubernetes manifests."""
