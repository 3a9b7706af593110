//! Shardings, which HLO carries as texts of the `sdy` dialect in the attributes of the front end.
//!
//! They are wishes: a text that cannot be read is passed over, as are the tile assignments that XLA itself keeps beside them.

use super::proto::{FrontendAttributes, HloInstructionProto};
use crate::import::stablehlo::module::{Limits, ModuleAttr};
use crate::import::stablehlo::text::read_attribute;
use indexmap::IndexMap;

/// The op that an instruction with a sharding and one operand becomes.
pub const CONSTRAINT: &str = "sdy.sharding_constraint";

/// The device meshes of a module: `{mesh = #sdy.mesh<["x"=2]>}`.
pub fn meshes(attributes: Option<&FrontendAttributes>, limits: &Limits) -> IndexMap<String, Vec<(String, usize)>> {
    let text = attributes.and_then(|a| a.map.get("xla.sdy.meshes"));
    let Some(Ok(ModuleAttr::Fields(all))) = text.map(|t| read_attribute(t, limits)) else { return IndexMap::new() };
    let axes = |mesh: ModuleAttr| {
        let ModuleAttr::Fields(axes) = mesh else { return None };
        let size = |(name, size): (String, ModuleAttr)| match size {
            ModuleAttr::Int(n) => usize::try_from(n).ok().filter(|n| *n > 0).map(|n| (name, n)),
            _ => None,
        };
        axes.into_iter().map(size).collect::<Option<Vec<_>>>()
    };
    all.into_iter().filter_map(|(name, mesh)| Some((name, axes(mesh)?))).collect()
}

/// How the one value of an instruction lies.
pub fn of(instruction: &HloInstructionProto, limits: &Limits) -> Option<ModuleAttr> {
    let text = instruction.frontend_attributes.as_ref()?.map.get("xla.sdy.sharding")?;
    match read_attribute(text, limits).ok()? {
        ModuleAttr::List(values) => <[ModuleAttr; 1]>::try_from(values).ok().map(|[one]| one),
        one => Some(one),
    }
    .filter(|s| matches!(s, ModuleAttr::Fields(_)))
}
