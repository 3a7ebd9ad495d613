"""From a field to its cells: objects, what tables say about them, and a crop around each."""
