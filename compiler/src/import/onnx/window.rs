//! The arithmetic of sliding windows: strides, dilations and the many ways of saying how to pad.

use super::call::{Call, Res, malformed};

/// A window over the spatial dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Extents of the window.
    pub kernel: Vec<usize>,
    /// Steps.
    pub strides: Vec<usize>,
    /// Distance between neighboring elements of the window.
    pub dilations: Vec<usize>,
    /// Padding in front.
    pub low: Vec<i64>,
    /// Padding behind, as the model says.
    pub high: Vec<i64>,
    /// Extra padding behind that rounding the output extent up needs; negative where a window would lie in the padding.
    pub ceil: Vec<i64>,
}

/// A list attribute of positive numbers with a default for each dimension.
pub fn positive_list(call: &Call<'_>, name: &str, rank: usize, default: usize) -> Res<Vec<usize>> {
    let Some(list) = call.attrs.ints(name)? else { return Ok(vec![default; rank]) };
    let list: Vec<usize> = list.iter().filter_map(|v| usize::try_from(*v).ok().filter(|v| (1..=1 << 31).contains(v))).collect();
    if list.len() == rank { Ok(list) } else { malformed(format!("'{name}' must be {rank} positive numbers")) }
}

/// How a window pads when the model asks for `SAME`: front and back.
fn same(extent: usize, kernel: usize, stride: usize, upper: bool) -> (i64, i64) {
    let output = extent.div_ceil(stride);
    let total = ((output as i64 - 1) * stride as i64 + kernel as i64 - extent as i64).max(0);
    let small = total / 2;
    if upper { (small, total - small) } else { (total - small, small) }
}

impl Window {
    /// Reads the window attributes of a node for an input with these spatial extents.
    pub fn read(call: &Call<'_>, spatial: &[usize], kernel: Vec<usize>) -> Res<Window> {
        let rank = spatial.len();
        if kernel.len() != rank {
            return malformed(format!("a window of {} dimensions over {rank}", kernel.len()));
        }
        let strides = positive_list(call, "strides", rank, 1)?;
        let dilations = positive_list(call, "dilations", rank, 1)?;
        let mut window = Window { kernel, strides, dilations, low: vec![0; rank], high: vec![0; rank], ceil: vec![0; rank] };
        match call.text("auto_pad", "NOTSET")? {
            "NOTSET" | "" => {
                let pads = call.attrs.ints("pads")?.unwrap_or(&[]);
                if !pads.is_empty() {
                    if pads.len() != 2 * rank || pads.iter().any(|p| !(-(1 << 31)..=1 << 31).contains(p)) {
                        return malformed(format!("{} pads for {rank} dimensions, or one out of range", pads.len()));
                    }
                    window.low = pads[..rank].to_vec();
                    window.high = pads[rank..].to_vec();
                }
            }
            "VALID" => {}
            mode @ ("SAME_UPPER" | "SAME_LOWER") => {
                for d in 0..rank {
                    (window.low[d], window.high[d]) = same(spatial[d], window.reach(d), window.strides[d], mode == "SAME_UPPER");
                }
            }
            other => return malformed(format!("auto_pad is '{other}'")),
        }
        Ok(window)
    }

    /// Extent of the window along a dimension, dilation included.
    pub fn reach(&self, d: usize) -> usize {
        self.kernel[d].saturating_sub(1).saturating_mul(self.dilations[d]).saturating_add(1)
    }

    /// Rounds output extents up: a last window may start inside the input or its front padding and reach over the end.
    pub fn round_up(&mut self, spatial: &[usize]) {
        for d in 0..spatial.len() {
            let (stride, reach) = (self.strides[d] as i64, self.reach(d) as i64);
            let span = spatial[d] as i64 + self.low[d] + self.high[d] - reach;
            if span < 0 {
                continue;
            }
            let mut steps = (span + stride - 1) / stride;
            if steps * stride >= spatial[d] as i64 + self.low[d] {
                steps -= 1;
            }
            self.ceil[d] = steps * stride - span;
        }
    }

    /// Padding behind, with what rounding up adds.
    pub fn total_high(&self) -> Vec<i64> {
        self.high.iter().zip(&self.ceil).map(|(h, c)| h + c).collect()
    }

    /// The output extents.
    pub fn output(&self, spatial: &[usize]) -> Res<Vec<usize>> {
        let high = self.total_high();
        let extent = |d: usize| {
            let span = spatial[d] as i64 + self.low[d] + high[d] - self.reach(d) as i64;
            (span >= 0).then(|| (span / self.strides[d] as i64 + 1) as usize)
        };
        (0..spatial.len()).map(|d| extent(d).map_or_else(|| malformed("the window is larger than the padded input"), Ok)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, low: i64, high: i64) -> Window {
        let dilations = vec![1];
        Window { kernel: vec![kernel], strides: vec![stride], dilations, low: vec![low], high: vec![high], ceil: vec![0] }
    }

    #[test]
    fn same_padding_splits_the_odd_element() {
        assert_eq!(same(5, 2, 2, true), (0, 1));
        assert_eq!(same(5, 2, 2, false), (1, 0));
        assert_eq!(same(4, 3, 1, true), (1, 1));
    }

    #[test]
    fn rounding_up_never_adds_a_window_that_is_all_padding() {
        let mut w = window(3, 2, 0, 0);
        w.round_up(&[4]);
        assert_eq!((w.ceil[0], w.output(&[4]).unwrap()), (1, vec![2]));
        // 2 elements, stride 3: the second window would start in the padding behind.
        let mut w = window(1, 3, 0, 2);
        w.round_up(&[2]);
        assert_eq!(w.output(&[2]).unwrap(), vec![1]);
    }
}
