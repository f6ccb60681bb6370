"""The labelers once more, slowly: float64 numpy from the papers' equations, sharing no code with the tool."""
