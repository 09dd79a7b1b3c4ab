"""Redis Cluster and Sentinel under load: failovers, moved slots, and a former primary that goes on."""
