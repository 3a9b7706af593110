//! `Resize`, `Upsample` and `GridSample`.
//!
//! Interpolation is separable and its weights depend on shapes only, so each resized axis is one product with a constant matrix;
//! nearest neighbors are a lookup, or a plain repetition when the factor is whole.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, axis, malformed, one, unsupported};
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::scalar::BinaryFn;
use girih_ir::types::DType;

/// How output coordinates map to input coordinates along one axis.
struct AxisMap<'a> {
    input: usize,
    output: usize,
    scale: f64,
    mode: &'a str,
    roi: (f64, f64),
}

impl AxisMap<'_> {
    fn source(&self, x: f64) -> f64 {
        // The resized length is the product with the scale, which need not be whole.
        let (i, o) = (self.input as f64, self.scale * self.input as f64);
        match self.mode {
            "asymmetric" => x / self.scale,
            "align_corners" if self.output <= 1 => 0.0,
            "align_corners" => x * (i - 1.0) / (o - 1.0),
            "pytorch_half_pixel" if self.output <= 1 => -0.5,
            "tf_half_pixel_for_nn" => (x + 0.5) / self.scale,
            "half_pixel_symmetric" => {
                let adjustment = self.output as f64 / o;
                let center = i / 2.0;
                center * (1.0 - adjustment) + (x + 0.5) / self.scale - 0.5
            }
            "tf_crop_and_resize" if self.output <= 1 => 0.5 * (self.roi.0 + self.roi.1) * (i - 1.0),
            "tf_crop_and_resize" => self.roi.0 * (i - 1.0) + x * (self.roi.1 - self.roi.0) * (i - 1.0) / (o - 1.0),
            _ => (x + 0.5) / self.scale - 0.5,
        }
    }
}

/// What a node asks for.
struct Request<'a> {
    mode: &'a str,
    nearest: &'a str,
    cubic_a: f64,
    exclude_outside: bool,
    antialias: bool,
    extrapolation: Option<f64>,
}

/// `Resize` since operator set 11, and `Upsample` and `Resize` before.
pub fn resize(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let mut x = call.input(0)?;
    let dims = b.dims(x);
    let rank = dims.len();
    let old = call.op == "Upsample" || call.opset < 11;
    let which = match call.attrs.ints("axes")? {
        Some(list) => list.iter().map(|a| axis(*a, rank)).collect::<Res<Vec<_>>>()?,
        None => (0..rank).collect(),
    };
    let coordinate = if old { "asymmetric" } else { call.text("coordinate_transformation_mode", "half_pixel")? };
    if ![
        "asymmetric",
        "align_corners",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
        "half_pixel_symmetric",
        "tf_crop_and_resize",
        "half_pixel",
    ]
    .contains(&coordinate)
    {
        return malformed(format!("there is no coordinate mode '{coordinate}'"));
    }
    let (outputs, scales) = output_extents(b, call, old, &dims, &which)?;
    let crop = coordinate == "tf_crop_and_resize";
    let roi = if crop { call.known(b, 1, "region")?.map(|t| t.floats()).unwrap_or_default() } else { Vec::new() };
    if crop && roi.len() != 2 * which.len() {
        return malformed("the region of interest does not fit");
    }
    let request = Request {
        mode: call.text("mode", "nearest")?,
        nearest: if old { "floor" } else { call.text("nearest_mode", "round_prefer_floor")? },
        cubic_a: call.float("cubic_coeff_a", -0.75)?,
        exclude_outside: call.flag("exclude_outside", false)?,
        antialias: call.flag("antialias", false)?,
        extrapolation: if crop { Some(call.float("extrapolation_value", 0.0)?) } else { None },
    };
    for (k, at) in which.iter().enumerate() {
        let map = AxisMap {
            input: dims[*at],
            output: outputs[k],
            scale: scales[k],
            mode: coordinate,
            roi: if crop { (roi[k], roi[k + which.len()]) } else { (0.0, 1.0) },
        };
        x = resize_axis(b, x, *at, &map, &request)?;
    }
    one(x)
}

/// Output extents and scales of the resized axes.
fn output_extents(b: &mut Builder, call: &Call<'_>, old: bool, dims: &[usize], which: &[usize]) -> Res<(Vec<usize>, Vec<f64>)> {
    let scales_at = if old { 1 } else { 2 };
    let mut scales = match call.attrs.floats("scales")? {
        Some(list) => list.iter().map(|s| f64::from(*s)).collect(),
        None => call.known(b, scales_at, "scales")?.map(|t| t.floats()).unwrap_or_default(),
    };
    let inputs: Vec<usize> = which.iter().map(|a| dims[*a]).collect();
    if !scales.is_empty() {
        if scales.len() != which.len() || scales.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            return malformed("there must be one positive scale an axis");
        }
        let outputs: Vec<usize> = inputs.iter().zip(&scales).map(|(i, s)| (*i as f64 * s).floor() as usize).collect();
        b.check_size(&outputs)?;
        return Ok((outputs, scales));
    }
    let Some(sizes) = call.opt(3)? else { return malformed("there are neither scales nor sizes") };
    let mut outputs = b.known_dims(sizes, "sizes")?;
    if outputs.len() != which.len() || inputs.contains(&0) {
        return malformed("there must be one size an axis");
    }
    scales = outputs.iter().zip(&inputs).map(|(o, i)| *o as f64 / *i as f64).collect();
    let policy = call.text("keep_aspect_ratio_policy", "stretch")?;
    if policy != "stretch" {
        let pick = if policy == "not_larger" { f64::min } else { f64::max };
        let scale = scales.iter().copied().reduce(pick).unwrap_or(1.0);
        scales = vec![scale; scales.len()];
        outputs = inputs.iter().map(|i| (*i as f64 * scale).round() as usize).collect();
    }
    b.check_size(&outputs)?;
    Ok((outputs, scales))
}

/// Resizes one axis.
fn resize_axis(b: &mut Builder, x: Val, at: usize, map: &AxisMap<'_>, request: &Request<'_>) -> Res<Val> {
    // The weights of every output, and the matrix that interpolation needs, must stay small.
    let reach = if request.antialias { (4.0 / map.scale.min(1.0)).ceil() as usize } else { 4 };
    let matrix = if request.mode == "nearest" { 0 } else { map.output.saturating_mul(map.input) };
    if map.output.saturating_mul(reach.saturating_add(1)) > 1 << 22 || matrix > 1 << 23 {
        return unsupported(format!("resizing {} elements to {}", map.input, map.output));
    }
    if map.input == 0 && map.output > 0 {
        return malformed("an empty dimension cannot be resized");
    }
    let rows: Vec<Vec<(usize, f64)>> = (0..map.output).map(|o| weights(map, request, o)).collect::<Res<_>>()?;
    let identity = map.input == map.output && rows.iter().enumerate().all(|(o, r)| r[..] == [(o, 1.0)]);
    if identity {
        return Ok(x);
    }
    let dims = b.dims(x);
    if request.mode == "nearest" && request.extrapolation.is_none() {
        let picks: Vec<i64> = rows.iter().map(|r| r[0].0 as i64).collect();
        let factor = map.output / map.input.max(1);
        if factor * map.input == map.output && picks.iter().enumerate().all(|(o, i)| o / factor == *i as usize) {
            let mut shape = dims.to_vec();
            shape.insert(at + 1, factor);
            let keep: Vec<usize> = (0..shape.len()).filter(|d| *d != at + 1).collect();
            let spread = b.broadcast_in_dim(x, &shape, &keep)?;
            let mut merged = dims.to_vec();
            merged[at] = map.output;
            return b.reshape(spread, &merged);
        }
        let picks = b.ints(&picks)?;
        return b.take(x, picks, at);
    }
    let dtype = b.dtype(x);
    if !dtype.is_float() {
        return unsupported(format!("interpolation of {dtype}"));
    }
    let mut matrix = vec![0.0; map.output * map.input];
    let mut outside = vec![0.0; map.output];
    for (o, row) in rows.iter().enumerate() {
        row.iter().for_each(|(i, w)| matrix[o * map.input + i] += w);
        outside[o] = if row.is_empty() { request.extrapolation.unwrap_or(0.0) } else { 0.0 };
    }
    let matrix = b.floats(dtype, &[map.output, map.input], matrix)?;
    let dot = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![at], rhs_contract: vec![1] };
    let y = b.emit(dot, &[x, matrix])?;
    // The new axis is last; bring it home.
    let rank = dims.len();
    let perm: Vec<usize> = (0..rank)
        .map(|d| match d.cmp(&at) {
            std::cmp::Ordering::Less => d,
            std::cmp::Ordering::Equal => rank - 1,
            std::cmp::Ordering::Greater => d - 1,
        })
        .collect();
    let y = b.transpose(y, &perm)?;
    if outside.iter().all(|v| *v == 0.0) {
        return Ok(y);
    }
    let mut shape = vec![1; rank];
    shape[at] = map.output;
    let outside = b.floats(dtype, &shape, outside)?;
    b.binary(BinaryFn::Add, y, outside)
}

/// The input positions and weights of one output position; none = extrapolated.
fn weights(map: &AxisMap<'_>, request: &Request<'_>, o: usize) -> Res<Vec<(usize, f64)>> {
    let x = map.source(o as f64);
    let last = map.input as f64 - 1.0;
    if request.extrapolation.is_some() && !(0.0..=last).contains(&x) {
        return Ok(Vec::new());
    }
    let stretch = if request.antialias { map.scale.min(1.0) } else { 1.0 };
    let (radius, kernel): (f64, Box<dyn Fn(f64) -> f64>) = match request.mode {
        "nearest" => {
            let i = match request.nearest {
                "floor" => x.floor(),
                "ceil" => x.ceil(),
                "round_prefer_ceil" => (x + 0.5).floor(),
                _ => (x - 0.5).ceil(),
            };
            return Ok(vec![(i.clamp(0.0, last.max(0.0)) as usize, 1.0)]);
        }
        "linear" | "bilinear" => (1.0, Box::new(|d: f64| (1.0 - d.abs()).max(0.0))),
        "cubic" => {
            let a = request.cubic_a;
            (2.0, Box::new(move |d: f64| cubic(a, d.abs())))
        }
        other => return malformed(format!("there is no mode '{other}'")),
    };
    let reach = radius / stretch;
    let (first, end) = ((x - reach).floor() as i64, (x + reach).ceil() as i64);
    let mut row: Vec<(usize, f64)> = Vec::new();
    let mut sum = 0.0;
    for i in first..=end {
        let inside = i >= 0 && i as f64 <= last;
        let w = kernel((x - i as f64) * stretch);
        if w == 0.0 || request.exclude_outside && !inside {
            continue;
        }
        sum += w;
        row.push((i.clamp(0, last.max(0.0) as i64) as usize, w));
    }
    if sum != 0.0 {
        row.iter_mut().for_each(|(_, w)| *w /= sum);
    }
    Ok(row)
}

/// Keys' cubic kernel.
fn cubic(a: f64, d: f64) -> f64 {
    if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    } else {
        0.0
    }
}

/// `GridSample` of two or three spatial dimensions, nearest or linear.
pub fn grid_sample(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, grid) = (call.input(0)?, call.input(1)?);
    let (dims, grid_dims) = (b.dims(x), b.dims(grid));
    let spatial = dims.len().saturating_sub(2);
    if spatial == 0 || spatial > 3 || grid_dims.len() != dims.len() || grid_dims[0] != dims[0] || grid_dims[dims.len() - 1] != spatial {
        return malformed(format!("a grid of {grid_dims:?} does not fit {dims:?}"));
    }
    let mode = call.text("mode", "linear")?;
    let sampler = Sampler {
        align: call.flag("align_corners", false)?,
        padding: call.text("padding_mode", "zeros")?.to_string(),
        dims: dims.to_vec(),
        dtype: b.dtype(grid),
    };
    let points: Vec<usize> = grid_dims[..dims.len() - 1].to_vec();
    // Coordinates in elements; the grid names the last dimension first.
    let mut coordinates = Vec::new();
    for d in 0..spatial {
        let k = spatial - 1 - d;
        let c = b.slice_axis(grid, dims.len() - 1, k, k + 1, 1)?;
        let c = b.reshape(c, &points)?;
        coordinates.push(sampler.denormalize(b, c, d)?);
    }
    let y = match mode {
        "nearest" => {
            let mut rounded = Vec::new();
            for (d, c) in coordinates.iter().enumerate() {
                let c = sampler.pad_coordinate(b, *c, d)?;
                rounded.push(b.unary(girih_ir::scalar::UnaryFn::RoundEven, c)?);
            }
            sampler.fetch(b, x, &rounded)?
        }
        "linear" | "bilinear" => {
            let mut padded = Vec::new();
            for (d, c) in coordinates.iter().enumerate() {
                padded.push(sampler.pad_coordinate(b, *c, d)?);
            }
            sampler.blend(b, x, &padded, 0..2, &|_, f, corner| if corner == 0 { (-1.0, 1.0, f) } else { (1.0, 0.0, f) })?
        }
        "cubic" | "bicubic" => sampler.cubic(b, x, &coordinates)?,
        other => return malformed(format!("there is no mode '{other}'")),
    };
    one(y)
}

/// Reads an image at computed positions.
struct Sampler {
    align: bool,
    padding: String,
    dims: Vec<usize>,
    dtype: DType,
}

impl Sampler {
    /// From -1…1 to elements of spatial dimension `d`.
    fn denormalize(&self, b: &mut Builder, c: Val, d: usize) -> Res<Val> {
        let extent = self.dims[d + 2] as f64;
        let (scale, shift) = if self.align { ((extent - 1.0) / 2.0, (extent - 1.0) / 2.0) } else { (extent / 2.0, (extent - 1.0) / 2.0) };
        let c = b.scale(c, scale)?;
        b.shift(c, shift)
    }

    /// Applies border or reflection padding to a coordinate.
    fn pad_coordinate(&self, b: &mut Builder, c: Val, d: usize) -> Res<Val> {
        let extent = self.dims[d + 2] as f64;
        match self.padding.as_str() {
            "zeros" => Ok(c),
            "border" => b.clamp(c, 0.0, extent - 1.0),
            "reflection" => {
                let (low, high) = if self.align { (0.0, extent - 1.0) } else { (-0.5, extent - 0.5) };
                let span = high - low;
                if span <= 0.0 {
                    return b.scale(c, 0.0);
                }
                // A triangle wave: |((c - low) mod 2·span) - …|.
                let x = b.shift(c, -low)?;
                let x = b.unary(girih_ir::scalar::UnaryFn::Abs, x)?;
                let period = b.like(x, 2.0 * span)?;
                let x = b.binary(BinaryFn::Rem, x, period)?;
                let mirrored = b.binary(BinaryFn::Sub, period, x)?;
                let x = b.binary(BinaryFn::Min, x, mirrored)?;
                let x = b.shift(x, low)?;
                b.clamp(x, 0.0, extent - 1.0)
            }
            other => malformed(format!("there is no padding mode '{other}'")),
        }
    }

    /// The elements at whole coordinates; zero outside.
    fn fetch(&self, b: &mut Builder, x: Val, coordinates: &[Val]) -> Res<Val> {
        use girih_ir::scalar::CompareFn;
        let rank = self.dims.len();
        let points = b.dims(coordinates[0]);
        let mut tuple_shape = points.to_vec();
        tuple_shape.push(1);
        let mut inside: Option<Val> = None;
        let mut parts = Vec::new();
        for (d, c) in coordinates.iter().enumerate() {
            let last = self.dims[d + 2] as f64 - 1.0;
            let (zero, top) = (b.like(*c, 0.0)?, b.like(*c, last)?);
            for (f, bound) in [(CompareFn::Ge, zero), (CompareFn::Le, top)] {
                let ok = b.compare(f, *c, bound)?;
                inside = Some(match inside {
                    None => ok,
                    Some(old) => b.binary(BinaryFn::And, old, ok)?,
                });
            }
            let c = b.clamp(*c, 0.0, last)?;
            let c = b.convert(c, DType::I64)?;
            parts.push(b.reshape(c, &tuple_shape)?);
        }
        let Some(inside) = inside else { return malformed("there are no coordinates") };
        let index = b.concat(&parts, points.len())?;
        // [N, C, spatial…] → [N, spatial…, C], gathered by batch, → [N, C, points…].
        let mut to_last: Vec<usize> = (0..rank).filter(|d| *d != 1).collect();
        to_last.push(1);
        let channels_last = b.transpose(x, &to_last)?;
        let picked = b.gather_nd(channels_last, index, 1)?;
        let mut back = vec![0, rank - 1];
        back.extend(1..rank - 1);
        let picked = b.transpose(picked, &back)?;
        let mut mask_shape = points.to_vec();
        mask_shape.insert(1, 1);
        let mask = b.reshape(inside, &mask_shape)?;
        let zero = b.like(picked, 0.0)?;
        b.select(mask, picked, zero)
    }

    /// Sums over the corners around each point; a corner's weight along a dimension is `base + sign · fraction`.
    fn blend(
        &self,
        b: &mut Builder,
        x: Val,
        coordinates: &[Val],
        corners: std::ops::Range<i64>,
        weight: &dyn Fn(&mut Builder, Val, i64) -> (f64, f64, Val),
    ) -> Res<Val> {
        let mut floors = Vec::new();
        let mut fractions = Vec::new();
        for c in coordinates {
            let floor = b.unary(girih_ir::scalar::UnaryFn::Floor, *c)?;
            fractions.push(b.binary(BinaryFn::Sub, *c, floor)?);
            floors.push(floor);
        }
        let count = (corners.end - corners.start) as usize;
        let mut total: Option<Val> = None;
        for corner in girih_ir::tensor::indices(&vec![count; coordinates.len()]) {
            let mut at = Vec::new();
            let mut product: Option<Val> = None;
            for (d, o) in corner.iter().enumerate() {
                let o = corners.start + *o as i64;
                at.push(b.shift(floors[d], o as f64)?);
                let (sign, base, fraction) = weight(b, fractions[d], o);
                let w = b.scale(fraction, sign)?;
                let w = b.shift(w, base)?;
                product = Some(match product {
                    None => w,
                    Some(p) => b.binary(BinaryFn::Mul, p, w)?,
                });
            }
            let Some(product) = product else { return malformed("there are no coordinates") };
            total = Some(self.add_weighted(b, x, &at, product, total)?);
        }
        total.map_or_else(|| malformed("there are no coordinates"), Ok)
    }

    fn add_weighted(&self, b: &mut Builder, x: Val, at: &[Val], weight: Val, total: Option<Val>) -> Res<Val> {
        let value = self.fetch(b, x, at)?;
        let mut shape = b.dims(weight).to_vec();
        shape.insert(1, 1);
        let weight = b.reshape(weight, &shape)?;
        let weight = b.convert(weight, b.dtype(x))?;
        let term = b.binary(BinaryFn::Mul, value, weight)?;
        match total {
            None => Ok(term),
            Some(total) => b.binary(BinaryFn::Add, total, term),
        }
    }

    /// Cubic blending; padding applies to each of the corners.
    fn cubic(&self, b: &mut Builder, x: Val, coordinates: &[Val]) -> Res<Val> {
        let a = -0.75;
        let (mut floors, mut weights) = (Vec::new(), Vec::new());
        for c in coordinates {
            let floor = b.unary(girih_ir::scalar::UnaryFn::Floor, *c)?;
            let f = b.binary(BinaryFn::Sub, *c, floor)?;
            let mut list = Vec::new();
            for o in -1..3i64 {
                // |f - o| without the absolute value: its sign is known.
                let signed = b.shift(f, -(o as f64))?;
                let d = if o > 0 { b.scale(signed, -1.0)? } else { signed };
                list.push(self.cubic_weight(b, a, d, (0..=1).contains(&o))?);
            }
            floors.push(floor);
            weights.push(list);
        }
        let mut total: Option<Val> = None;
        for corner in girih_ir::tensor::indices(&vec![4; coordinates.len()]) {
            let mut at = Vec::new();
            let mut product = b.scalar(self.dtype, 1.0)?;
            for (d, o) in corner.iter().enumerate() {
                let c = b.shift(floors[d], *o as f64 - 1.0)?;
                at.push(self.pad_coordinate(b, c, d)?);
                product = b.binary(BinaryFn::Mul, product, weights[d][*o])?;
            }
            total = Some(self.add_weighted(b, x, &at, product, total)?);
        }
        total.map_or_else(|| malformed("there are no coordinates"), Ok)
    }

    fn cubic_weight(&self, b: &mut Builder, a: f64, d: Val, near: bool) -> Res<Val> {
        let polynomial = |b: &mut Builder, c: [f64; 4]| -> Res<Val> {
            let mut y = b.scale(d, c[0])?;
            for (k, c) in c[1..].iter().enumerate() {
                y = b.shift(y, *c)?;
                if k < 2 {
                    y = b.binary(BinaryFn::Mul, y, d)?;
                }
            }
            Ok(y)
        };
        if near { polynomial(b, [a + 2.0, -(a + 3.0), 0.0, 1.0]) } else { polynomial(b, [a, -5.0 * a, 8.0 * a, -4.0 * a]) }
    }
}
