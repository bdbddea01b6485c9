//! Integration tests against real servers: one module per promise.
