//! Convolutions and pooling.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, Value, malformed, one, unsupported};
use super::super::window::{Window, positive_list};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::types::{DType, element_count};

fn groups(call: &Call<'_>) -> Res<usize> {
    match usize::try_from(call.int("group", 1)?) {
        Ok(g) if g > 0 => Ok(g),
        _ => malformed("the number of groups is not positive"),
    }
}

fn add_bias(b: &mut Builder, y: Val, bias: Option<Val>) -> Res<Val> {
    let Some(bias) = bias else { return Ok(y) };
    let rank = b.rank(y);
    let bias = super::norm::per_channel(b, bias, rank)?;
    b.binary(BinaryFn::Add, y, bias)
}

/// `Conv`.
pub fn conv(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, w) = (call.input(0)?, call.input(1)?);
    let (dims, kernel) = (b.dims(x), b.dims(w));
    if dims.len() < 3 || kernel.len() != dims.len() {
        return malformed(format!("input {dims:?} and kernel {kernel:?} do not fit"));
    }
    let group = groups(call)?;
    if kernel[1].checked_mul(group) != Some(dims[1]) || kernel[0] % group != 0 {
        return malformed(format!("kernel {kernel:?} in {group} groups does not fit {} channels", dims[1]));
    }
    if let Some(shape) = call.attrs.ints("kernel_shape")?
        && !shape.iter().map(|v| usize::try_from(*v).ok()).eq(kernel[2..].iter().map(|k| Some(*k)))
    {
        return malformed(format!("kernel_shape {shape:?} is not that of the kernel {kernel:?}"));
    }
    let window = Window::read(call, &dims[2..], kernel[2..].to_vec())?;
    window.output(&dims[2..])?;
    let ones = vec![1; dims.len() - 2];
    let y = b.conv(x, w, &window.strides, &window.low, &window.high, &ones, &window.dilations, group)?;
    one(add_bias(b, y, call.opt(2)?)?)
}

/// `ConvTranspose`: a convolution of the spread-out input with the mirrored kernel.
pub fn conv_transpose(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, w) = (call.input(0)?, call.input(1)?);
    let (dims, kernel) = (b.dims(x), b.dims(w));
    let group = groups(call)?;
    if dims.len() < 3 || kernel.len() != dims.len() || kernel[0] != dims[1] || dims[1] % group != 0 {
        return malformed(format!("input {dims:?} and kernel {kernel:?} in {group} groups do not fit"));
    }
    let spatial = dims.len() - 2;
    let strides = positive_list(call, "strides", spatial, 1)?;
    let dilations = positive_list(call, "dilations", spatial, 1)?;
    let extra = call.attrs.ints("output_padding")?.map_or_else(|| vec![0; spatial], <[i64]>::to_vec);
    if extra.len() != spatial || extra.iter().any(|e| !(0..1 << 31).contains(e)) {
        return malformed("output_padding does not fit");
    }
    let reach = |d: usize| (kernel[d + 2] as i64 - 1).saturating_mul(dilations[d] as i64).saturating_add(1);
    let (mut low, mut high) = transposed_pads(call, &dims[2..], &strides, &extra, &reach)?;
    for d in 0..spatial {
        low[d] = reach(d) - 1 - low[d];
        high[d] = reach(d) - 1 - high[d] + extra[d];
    }
    // [C, M/g, k…] → [M, C/g, k…], mirrored.
    let (c, m) = (kernel[0] / group, kernel[1]);
    let mut split = vec![group, c, m];
    split.extend_from_slice(&kernel[2..]);
    let mut perm: Vec<usize> = (0..split.len()).collect();
    perm.swap(1, 2);
    let mut merged = vec![group * m, c];
    merged.extend_from_slice(&kernel[2..]);
    let w = b.reshape(w, &split)?;
    let w = b.transpose(w, &perm)?;
    let w = b.reshape(w, &merged)?;
    let w = b.reverse(w, &(2..dims.len()).collect::<Vec<_>>())?;
    let y = b.conv(x, w, &vec![1; spatial], &low, &high, &strides, &dilations, group)?;
    one(add_bias(b, y, call.opt(2)?)?)
}

/// The pads of a transposed convolution, from `pads`, `output_shape` or `auto_pad`.
fn transposed_pads(
    call: &Call<'_>,
    spatial: &[usize],
    strides: &[usize],
    extra: &[i64],
    reach: &dyn Fn(usize) -> i64,
) -> Res<(Vec<i64>, Vec<i64>)> {
    let rank = spatial.len();
    let auto = call.text("auto_pad", "NOTSET")?;
    let natural = |d: usize| (strides[d] as i64).saturating_mul(spatial[d] as i64 - 1).saturating_add(extra[d]).saturating_add(reach(d));
    let wanted: Option<Vec<i64>> = match (call.attrs.ints("output_shape")?, auto) {
        (Some(list), _) if list.len() >= rank => Some(list[list.len() - rank..].to_vec()),
        (_, "SAME_UPPER" | "SAME_LOWER") => Some((0..rank).map(|d| spatial[d].saturating_mul(strides[d]) as i64).collect()),
        _ => None,
    };
    if let Some(wanted) = wanted {
        let total: Vec<i64> = (0..rank).map(|d| natural(d).saturating_sub(wanted[d])).collect();
        if wanted.iter().any(|w| !(0..1 << 31).contains(w)) {
            return malformed("output_shape is out of range");
        }
        let half: Vec<i64> = total.iter().map(|t| t.div_euclid(2)).collect();
        let rest: Vec<i64> = total.iter().zip(&half).map(|(t, h)| t - h).collect();
        return Ok(if auto == "SAME_UPPER" { (half, rest) } else { (rest, half) });
    }
    let pads = call.attrs.ints("pads")?.unwrap_or(&[]);
    if pads.is_empty() || auto == "VALID" {
        return Ok((vec![0; rank], vec![0; rank]));
    }
    if pads.len() != 2 * rank || pads.iter().any(|p| !(-(1 << 31)..1 << 31).contains(p)) {
        return malformed(format!("{} pads for {rank} dimensions, or one out of range", pads.len()));
    }
    Ok((pads[..rank].to_vec(), pads[rank..].to_vec()))
}

/// The window of a pooling node over `[N, C, …]`.
fn pool_window(b: &Builder, call: &Call<'_>, x: Val) -> Res<Window> {
    let dims = b.dims(x);
    if dims.len() < 3 {
        return malformed("the input must have at least 3 dimensions");
    }
    let Some(kernel) = call.attrs.ints("kernel_shape")? else { return malformed("kernel_shape is missing") };
    let kernel: Vec<usize> = kernel.iter().filter_map(|k| usize::try_from(*k).ok().filter(|k| (1..=1 << 31).contains(k))).collect();
    let mut window = Window::read(call, &dims[2..], kernel)?;
    if call.flag("ceil_mode", false)? {
        window.round_up(&dims[2..]);
    }
    window.output(&dims[2..])?;
    Ok(window)
}

/// Combines over a window of the spatial dimensions.
fn pool(b: &mut Builder, monoid: Monoid, x: Val, w: &Window) -> Res<Val> {
    let lead = |list: &[usize]| [&[1, 1], list].concat();
    let pads = |list: &[i64]| [&[0, 0], list].concat();
    b.reduce_window(monoid, x, &lead(&w.kernel), &lead(&w.strides), &lead(&w.dilations), &pads(&w.low), &pads(&w.total_high()))
}

/// `MaxPool`, with the optional indices of the maxima.
pub fn max_pool(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let window = pool_window(b, call, x)?;
    let y = pool(b, Monoid::Max, x, &window)?;
    if !call.wants(1) {
        return one(y);
    }
    let indices = max_pool_indices(b, x, &window, call.int("storage_order", 0)? != 0)?;
    Ok(vec![y.into(), indices.into()])
}

/// For each window the flat position of its first maximum: every offset of the window is one shifted copy of the input.
fn max_pool_indices(b: &mut Builder, x: Val, w: &Window, column_major: bool) -> Res<Val> {
    let dims = b.dims(x);
    let spatial = dims[2..].to_vec();
    let out = w.output(&spatial)?;
    if element_count(&w.kernel) > 1024 {
        return unsupported("indices of windows with more than 1024 elements");
    }
    // Flat positions, and the input, padded so that no padding can win.
    let mut weights = vec![1i64; spatial.len()];
    let order: Vec<usize> = if column_major { (0..spatial.len()).collect() } else { (0..spatial.len()).rev().collect() };
    order.windows(2).for_each(|p| weights[p[1]] = weights[p[0]] * spatial[p[0]] as i64);
    let mut best: Option<(Val, Val)> = None;
    let high = w.total_high();
    let pads = |list: &[i64]| [&[0, 0], list].concat();
    let lowest = match Monoid::Max.identity(b.dtype(x)) {
        girih_ir::scalar::Wide::F(v) => v,
        girih_ir::scalar::Wide::I(v) => v as f64,
    };
    let fill = b.scalar(b.dtype(x), lowest)?;
    let padded = b.pad(x, fill, &pads(&w.low), &pads(&high))?;
    let plane: i64 = spatial.iter().product::<usize>() as i64;
    for offset in girih_ir::tensor::indices(&w.kernel) {
        let mut part = padded;
        let mut position = b.int_scalar(0)?;
        for d in 0..spatial.len() {
            let start = offset[d] * w.dilations[d];
            part = b.slice_axis(part, d + 2, start, start + (out[d] - 1) * w.strides[d] + 1, w.strides[d])?;
            let step = b.iota(DType::I64, out[d], d + 2, dims.len())?;
            let step = b.scale(step, w.strides[d] as f64)?;
            let at = b.shift(step, (start as i64 - w.low[d]) as f64)?;
            let at = b.scale(at, weights[d] as f64)?;
            position = b.binary(BinaryFn::Add, position, at)?;
        }
        best = Some(match best {
            None => {
                let shape = b.dims(part);
                (part, b.broadcast_to(position, &shape)?)
            }
            Some((value, at)) => {
                let better = b.compare(CompareFn::Gt, part, value)?;
                (b.select(better, part, value)?, b.select(better, position, at)?)
            }
        });
    }
    let Some((_, position)) = best else { return malformed("the window is empty") };
    let n = b.iota(DType::I64, dims[0], 0, dims.len())?;
    let n = b.scale(n, (dims[1] as i64 * plane) as f64)?;
    let c = b.iota(DType::I64, dims[1], 1, dims.len())?;
    let c = b.scale(c, plane as f64)?;
    let base = b.binary(BinaryFn::Add, n, c)?;
    b.binary(BinaryFn::Add, position, base)
}

/// How many elements of each window count: those of the input, and of the explicit padding when `include_pad`.
fn window_counts(b: &mut Builder, x: Val, w: &Window, include_pad: bool) -> Res<Val> {
    let dims = b.dims(x);
    let mut result = b.scalar(b.dtype(x), 1.0)?;
    let out = w.output(&dims[2..])?;
    // The count is a product of one count a dimension.
    for d in 0..out.len() {
        if out[d].saturating_mul(w.kernel[d]) > 1 << 24 {
            return unsupported("an average over more than 16 million window positions a dimension");
        }
        let (low, extent) = (w.low[d], dims[d + 2] as i64);
        let (first, last) = if include_pad { (-low, extent + w.high[d]) } else { (0, extent) };
        let inside = |o: usize, k: usize| {
            let at = (o * w.strides[d] + k * w.dilations[d]) as i64 - low;
            (first..last).contains(&at)
        };
        let counts = (0..out[d]).map(|o| (0..w.kernel[d]).filter(|k| inside(o, *k)).count() as f64).collect();
        let mut shape = vec![1; dims.len()];
        shape[d + 2] = out[d];
        let counts = b.floats(b.dtype(x), &shape, counts)?;
        result = b.binary(BinaryFn::Mul, result, counts)?;
    }
    Ok(result)
}

/// `AveragePool`.
pub fn average_pool(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let window = pool_window(b, call, x)?;
    let sum = pool(b, Monoid::Sum, x, &window)?;
    let include = call.flag("count_include_pad", false)?;
    let plain = window.ceil.iter().all(|c| *c == 0) && (include || window.low.iter().chain(&window.high).all(|p| *p <= 0));
    if plain {
        return one(b.scale(sum, 1.0 / element_count(&window.kernel) as f64)?);
    }
    let counts = window_counts(b, x, &window, include)?;
    one(b.binary(BinaryFn::Div, sum, counts)?)
}

/// `LpPool`.
pub fn lp_pool(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let window = pool_window(b, call, x)?;
    let p = call.int("p", 2)? as f64;
    let powers = to_power(b, x, p)?;
    let sum = pool(b, Monoid::Sum, powers, &window)?;
    let root = b.like(sum, 1.0 / p)?;
    one(b.binary(BinaryFn::Pow, sum, root)?)
}

fn to_power(b: &mut Builder, x: Val, p: f64) -> Res<Val> {
    let a = b.unary(UnaryFn::Abs, x)?;
    let p = b.like(a, p)?;
    b.binary(BinaryFn::Pow, a, p)
}

/// `GlobalAveragePool`, `GlobalMaxPool` and `GlobalLpPool`.
pub fn global_pool(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let rank = b.rank(x);
    if rank < 3 {
        return malformed("the input must have at least 3 dimensions");
    }
    let spatial: Vec<usize> = (2..rank).collect();
    one(match call.op {
        "GlobalAveragePool" => b.mean(x, &spatial, true)?,
        "GlobalMaxPool" => b.reduce(Monoid::Max, x, &spatial, true)?,
        _ => {
            let p = call.int("p", 2)? as f64;
            let powers = to_power(b, x, p)?;
            let sum = b.reduce(Monoid::Sum, powers, &spatial, true)?;
            let root = b.like(sum, 1.0 / p)?;
            b.binary(BinaryFn::Pow, sum, root)?
        }
    })
}

/// `MaxUnpool`: values back to the positions that `MaxPool` reported.
pub fn max_unpool(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, index) = (call.input(0)?, call.input(1)?);
    let dims = b.dims(x);
    if dims.len() < 3 || b.dims(index) != dims {
        return malformed("the indices do not fit the input");
    }
    let kernel = positive_list(call, "kernel_shape", dims.len() - 2, 1)?;
    let window = Window::read(call, &dims[2..], kernel)?;
    let mut natural = dims.to_vec();
    for d in 0..window.kernel.len() {
        let extent = (dims[d + 2] as i64 - 1) * window.strides[d] as i64 + window.kernel[d] as i64 - window.low[d] - window.high[d];
        natural[d + 2] = usize::try_from(extent).or_else(|_| malformed("the pads are larger than the output"))?;
    }
    let shape = match call.opt(2)? {
        Some(v) => b.known_dims(v, "output shape")?,
        None => natural.clone(),
    };
    b.check_size(&natural)?;
    if shape.len() != natural.len() || shape.iter().zip(&natural).any(|(s, n)| s < n) {
        return malformed(format!("the output shape {shape:?} is smaller than {natural:?}"));
    }
    // Indices count in the natural output; scatter there, then pad behind.
    let count = element_count(&dims);
    let zero = b.scalar(b.dtype(x), 0.0)?;
    let flat = b.broadcast_to(zero, &[element_count(&natural)])?;
    let index = b.convert(index, DType::I64)?;
    let index = b.reshape(index, &[count, 1])?;
    let values = b.reshape(x, &[count])?;
    let y = b.scatter_nd(flat, index, values, None)?;
    let y = b.reshape(y, &natural)?;
    let high: Vec<i64> = shape.iter().zip(&natural).map(|(s, n)| (s - n) as i64).collect();
    one(b.pad(y, zero, &vec![0; high.len()], &high)?)
}

/// `Col2Im`: sums blocks back into the image, one strided and padded copy for each position of the block.
pub fn col2im(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, image, block) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let (image, block) = (b.known_dims(image, "image shape")?, b.known_dims(block, "block shape")?);
    let dims = b.dims(x);
    let window = Window::read(call, &image, block.clone())?;
    let out = window.output(&image)?;
    let size = element_count(&block);
    if dims.len() != 3 || size == 0 || size > 4096 || !dims[1].is_multiple_of(size) || dims[2] != element_count(&out) {
        return malformed(format!("input {dims:?} does not hold blocks {block:?} of image {image:?}"));
    }
    let channels = dims[1] / size;
    let split = [&[dims[0], channels], &block[..], &out[..]].concat();
    let x = b.reshape(x, &split)?;
    let zero = b.scalar(b.dtype(x), 0.0)?;
    let mut result: Option<Val> = None;
    for offset in girih_ir::tensor::indices(&block) {
        let mut part = x;
        for (d, o) in offset.iter().enumerate() {
            part = b.slice_axis(part, 2 + d, *o, *o + 1, 1)?;
        }
        part = b.reshape(part, &[&[dims[0], channels], &out[..]].concat())?;
        let rank = out.len() + 2;
        let (mut low, mut high, mut inner) = (vec![0i64; rank], vec![0i64; rank], vec![0usize; rank]);
        for d in 0..out.len() {
            inner[d + 2] = window.strides[d] - 1;
            low[d + 2] = (offset[d] * window.dilations[d]) as i64 - window.low[d];
            let spread = ((out[d] - 1) * window.strides[d] + 1) as i64;
            high[d + 2] = image[d] as i64 - spread - low[d + 2];
        }
        let placed = b.pad_interior(part, zero, &low, &high, &inner)?;
        result = Some(match result {
            None => placed,
            Some(sum) => b.binary(BinaryFn::Add, sum, placed)?,
        });
    }
    result.map_or_else(|| malformed("the block is empty"), |v| Ok(vec![Value::Tensor(v)]))
}
