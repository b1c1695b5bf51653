"""How many replicas a load needs: stage times, stations that queue, a plan."""
