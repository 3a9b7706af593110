//! Host tensors: where `load` reads and `store` writes.
//!
//! Inputs are the literals of the step, shared and not copied. Outputs are buffers that live as long as the session.

use super::strided::part_of;
use girih_ir::axes::Box as Part;
use girih_ir::literal::Literal;
use girih_ir::program::{HostTensor, HostUse};
use girih_ir::types::{Layout, TensorType};
use std::sync::{Mutex, PoisonError, RwLock};

/// One host tensor.
#[derive(Debug)]
enum Tensor {
    Input(RwLock<Option<Literal>>),
    Output(Mutex<Vec<u8>>),
}

/// All host tensors of a program.
#[derive(Debug)]
pub struct Hosts {
    tensors: Vec<(TensorType, Tensor)>,
}

impl Hosts {
    /// Empty inputs and zeroed outputs.
    pub fn new(list: &[HostTensor]) -> Self {
        let one = |t: &HostTensor| match t.usage {
            HostUse::Input(_) => (t.ty.clone(), Tensor::Input(RwLock::new(None))),
            HostUse::Output(_) => (t.ty.clone(), Tensor::Output(Mutex::new(vec![0; t.ty.bytes()]))),
        };
        Hosts { tensors: list.iter().map(one).collect() }
    }

    /// Gives an input its value, which has the tensor's type.
    pub fn set(&self, index: usize, value: Option<Literal>) {
        if let Some((_, Tensor::Input(slot))) = self.tensors.get(index) {
            *slot.write().unwrap_or_else(PoisonError::into_inner) = value;
        }
    }

    /// The bytes of a tensor: an input's value or an output's last one.
    pub fn bytes(&self, index: usize) -> Option<Vec<u8>> {
        match self.tensors.get(index)? {
            (_, Tensor::Input(slot)) => slot.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|l| l.bytes().to_vec()),
            (_, Tensor::Output(bytes)) => Some(bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }

    /// Hands out the bytes of a tensor and the layout of a part of it; `None` when there is no such tensor, part or value.
    pub fn load<R>(&self, index: usize, part: &Part, f: impl FnOnce(&[u8], &Layout) -> R) -> Option<R> {
        let (ty, tensor) = self.tensors.get(index)?;
        let layout = inside(ty, part)?;
        match tensor {
            Tensor::Input(slot) => {
                let value = slot.read().unwrap_or_else(PoisonError::into_inner);
                Some(f(value.as_ref()?.bytes(), &layout))
            }
            Tensor::Output(bytes) => Some(f(&bytes.lock().unwrap_or_else(PoisonError::into_inner), &layout)),
        }
    }

    /// Hands out the bytes of an output for writing.
    pub fn store<R>(&self, index: usize, part: &Part, f: impl FnOnce(&mut [u8], &Layout) -> R) -> Option<R> {
        let (ty, tensor) = self.tensors.get(index)?;
        let layout = inside(ty, part)?;
        match tensor {
            Tensor::Input(_) => None,
            Tensor::Output(bytes) => Some(f(&mut bytes.lock().unwrap_or_else(PoisonError::into_inner), &layout)),
        }
    }
}

fn inside(ty: &TensorType, part: &Part) -> Option<Layout> {
    let fits = part.len() == ty.rank() && part.iter().zip(&ty.shape).all(|(r, e)| r.start <= r.end && r.end <= *e);
    fits.then(|| part_of(&ty.shape, part))
}
