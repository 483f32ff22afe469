"""An asyncio-native distributed runtime."""
