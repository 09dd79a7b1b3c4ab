"""Tables, connections and statements of SQL."""
