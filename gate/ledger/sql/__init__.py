"""Tables, connections and statements."""
