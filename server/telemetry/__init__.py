"""What operators see of the gateway: metrics, traces and logs, all made from what requests and engines tell."""
