//! The conveyor: source to cutter to segment to store to acknowledgement.

pub mod ack;
pub mod backup;
pub mod tail;
