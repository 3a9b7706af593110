//! Host tensors: where `load` reads and `store` writes.
//!
//! Inputs are the literals of the step, shared and not copied. Outputs are buffers that live as long as the session. State that stays here
//! has two buffers, so that a load finds the value before the step whatever was stored already; behind the step they change places.

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
    /// The value before the step, and what the step stores (nothing, when it stores nothing).
    State(RwLock<Vec<u8>>, Option<Mutex<Vec<u8>>>),
}

/// All host tensors of a program.
#[derive(Debug)]
pub struct Hosts {
    tensors: Vec<(TensorType, Tensor)>,
}

impl Hosts {
    /// Empty inputs, zeroed outputs and state. `stored` says which tensors the step stores into.
    pub fn new(list: &[HostTensor], stored: &[bool]) -> Self {
        let one = |(i, t): (usize, &HostTensor)| match t.usage {
            HostUse::Input(_) => (t.ty.clone(), Tensor::Input(RwLock::new(None))),
            HostUse::Output(_) => (t.ty.clone(), Tensor::Output(Mutex::new(vec![0; t.ty.bytes()]))),
            HostUse::State(_) => {
                let buffer = || vec![0; t.ty.bytes()];
                let next = stored.get(i).is_some_and(|s| *s).then(|| Mutex::new(buffer()));
                (t.ty.clone(), Tensor::State(RwLock::new(buffer()), next))
            }
        };
        Hosts { tensors: list.iter().enumerate().map(one).collect() }
    }

    /// Gives a state the value that it has before the next step; false when it is no state or has another size.
    pub fn set_state(&mut self, index: usize, value: &[u8]) -> bool {
        let Some((_, Tensor::State(now, _))) = self.tensors.get_mut(index) else { return false };
        let now = now.get_mut().unwrap_or_else(PoisonError::into_inner);
        let fits = now.len() == value.len();
        if fits {
            now.copy_from_slice(value);
        }
        fits
    }

    /// Behind a step: what it stored is what the next one finds.
    pub fn commit(&mut self) {
        for (_, tensor) in &mut self.tensors {
            if let Tensor::State(now, Some(next)) = tensor {
                let (now, next) = (now.get_mut(), next.get_mut());
                std::mem::swap(now.unwrap_or_else(PoisonError::into_inner), next.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Gives an input its value, which has the tensor's type.
    pub fn set(&self, index: usize, value: Option<Literal>) {
        if let Some((_, Tensor::Input(slot))) = self.tensors.get(index) {
            *slot.write().unwrap_or_else(PoisonError::into_inner) = value;
        }
    }

    /// The bytes of a tensor: an input's value, an output's last one, or a state's.
    pub fn bytes(&self, index: usize) -> Option<Vec<u8>> {
        match self.tensors.get(index)? {
            (_, Tensor::Input(slot)) => slot.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|l| l.bytes().to_vec()),
            (_, Tensor::Output(bytes)) => Some(bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            (_, Tensor::State(now, _)) => Some(now.read().unwrap_or_else(PoisonError::into_inner).clone()),
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
            Tensor::State(now, _) => Some(f(&now.read().unwrap_or_else(PoisonError::into_inner), &layout)),
        }
    }

    /// Hands out the bytes of an output, or of a state behind the step, for writing.
    pub fn store<R>(&self, index: usize, part: &Part, f: impl FnOnce(&mut [u8], &Layout) -> R) -> Option<R> {
        let (ty, tensor) = self.tensors.get(index)?;
        let layout = inside(ty, part)?;
        match tensor {
            Tensor::Input(_) | Tensor::State(_, None) => None,
            Tensor::Output(bytes) | Tensor::State(_, Some(bytes)) => {
                Some(f(&mut bytes.lock().unwrap_or_else(PoisonError::into_inner), &layout))
            }
        }
    }
}

fn inside(ty: &TensorType, part: &Part) -> Option<Layout> {
    let fits = part.len() == ty.rank() && part.iter().zip(&ty.shape).all(|(r, e)| r.start <= r.end && r.end <= *e);
    fits.then(|| part_of(&ty.shape, part))
}
