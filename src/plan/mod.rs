//! From a catalog and a target to a plan or a refusal: values in, a value out.

pub mod chain;
pub mod cut;
pub mod path;
pub mod refusal;
pub mod window;
