//! The ONNX front end.

pub mod limits;
pub mod proto;
pub mod tensor;
