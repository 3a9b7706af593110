//! Matrix products and Einstein sums.

use super::super::build::{Builder, Val};
use super::super::call::{Call, Outputs, Res, malformed, one, unsupported};
use girih_ir::ops::dot_general::DotGeneral;
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid};
use girih_ir::types::DType;

/// `MatMul`: numpy's `@`.
pub fn matmul(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, y) = (call.input(0)?, call.input(1)?);
    one(product(b, x, y)?)
}

/// `x @ y` by numpy's rule. A matrix on the right serves all leading dimensions of the left without being repeated.
pub fn product(b: &mut Builder, x: Val, y: Val) -> Res<Val> {
    let (dx, dy) = (b.dims(x), b.dims(y));
    if dx.is_empty() || dy.is_empty() || b.dtype(x) != b.dtype(y) {
        return malformed(format!("{}{dx:?} and {}{dy:?} have no matrix product", b.dtype(x), b.dtype(y)));
    }
    let contract_y = dy.len().saturating_sub(2);
    if dx[dx.len() - 1] != dy[contract_y] {
        return malformed(format!("{dx:?} and {dy:?} have no matrix product"));
    }
    if dy.len() <= 2 {
        return b.emit(
            DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![dx.len() - 1], rhs_contract: vec![contract_y] },
            &[x, y],
        );
    }
    let (batch_x, batch_y) = (dx[..dx.len().saturating_sub(2)].to_vec(), dy[..dy.len() - 2].to_vec());
    let batch = b.broadcast_shape(&batch_x, &batch_y)?;
    let vector = dx.len() == 1;
    let mut full_x = batch.clone();
    full_x.extend(if vector { &dx[..] } else { &dx[dx.len() - 2..] });
    let mut full_y = batch.clone();
    full_y.extend(&dy[dy.len() - 2..]);
    let (x, y) = if vector {
        let mut spread = vec![1; batch.len()];
        spread.push(dx[0]);
        let x = b.reshape(x, &spread)?;
        (b.broadcast_to(x, &full_x)?, b.broadcast_to(y, &full_y)?)
    } else {
        (b.broadcast_to(x, &full_x)?, b.broadcast_to(y, &full_y)?)
    };
    b.emit(DotGeneral::matmul(full_x.len(), batch.len(), batch.len()), &[x, y])
}

/// `Gemm`: `alpha · A' · B' + beta · C`.
pub fn gemm(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let (x, y) = (call.input(0)?, call.input(1)?);
    if b.rank(x) != 2 || b.rank(y) != 2 {
        return malformed("the operands must have 2 dimensions");
    }
    let (tx, ty) = (usize::from(call.flag("transA", false)?), usize::from(call.flag("transB", false)?));
    let dot = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1 - tx], rhs_contract: vec![ty] };
    let mut result = b.emit(dot, &[x, y])?;
    result = b.scale(result, call.float("alpha", 1.0)?)?;
    if let Some(c) = call.opt(2)? {
        let c = b.scale(c, call.float("beta", 1.0)?)?;
        let shape = b.dims(result);
        let c = b.broadcast_to(c, &shape)?;
        result = b.binary(BinaryFn::Add, result, c)?;
    }
    one(result)
}

/// `Det` and friends are not here; `Einsum` reduces to transpositions, sums and products.
pub fn einsum(b: &mut Builder, call: &Call<'_>) -> Outputs {
    let equation: String = call.text("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let operands = call.all()?;
    let (left, right) = match equation.split_once("->") {
        Some((l, r)) => (l.to_string(), Some(r.to_string())),
        None => (equation.clone(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != operands.len() {
        return malformed(format!("equation '{equation}' is for {} operands", terms.len()));
    }
    let ellipsis = ellipsis_rank(b, &terms, &operands)?;
    let labels: Vec<Vec<char>> = terms.iter().zip(&operands).map(|(t, v)| expand_labels(t, b.rank(*v), ellipsis)).collect::<Res<_>>()?;
    let output = match right {
        Some(text) => {
            let rank = text.chars().filter(|c| *c != '.').count() + if text.contains("...") { ellipsis } else { 0 };
            expand_labels(&text, rank, ellipsis)?
        }
        None => implicit_output(&labels, ellipsis),
    };
    let mut operands: Vec<(Val, Vec<char>)> = operands.into_iter().zip(labels).map(|(v, l)| diagonal(b, v, l)).collect::<Res<Vec<_>>>()?;
    operands.reverse();
    let Some(mut acc) = operands.pop() else { return malformed("there are no operands") };
    while let Some(next) = operands.pop() {
        let wanted = |l: &char| output.contains(l) || operands.iter().any(|(_, o)| o.contains(l));
        acc = contract(b, acc, next, &wanted)?;
    }
    let acc = sum_out(b, acc, &|l| output.contains(l))?;
    let perm: Option<Vec<usize>> = output.iter().map(|l| acc.1.iter().position(|a| a == l)).collect();
    match perm {
        Some(perm) if perm.len() == acc.1.len() => one(b.transpose(acc.0, &perm)?),
        _ => malformed(format!("the result of '{equation}' names a dimension that is not there")),
    }
}

/// How many dimensions `...` stands for.
fn ellipsis_rank(b: &Builder, terms: &[&str], operands: &[Val]) -> Res<usize> {
    let mut rank = 0;
    for (term, v) in terms.iter().zip(operands) {
        if term.contains("...") {
            let named = term.chars().filter(|c| *c != '.').count();
            rank = rank.max(b.rank(*v).checked_sub(named).map_or_else(|| malformed("an operand has too few dimensions"), Ok)?);
        }
    }
    Ok(rank)
}

/// One label a dimension; the dimensions of `...` get private labels counted from the right.
fn expand_labels(term: &str, rank: usize, ellipsis: usize) -> Res<Vec<char>> {
    let named = term.chars().filter(|c| *c != '.').count();
    let hidden = if term.contains("...") { rank.saturating_sub(named) } else { 0 };
    let mut out = Vec::new();
    let mut rest = term;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            out.extend((ellipsis - hidden.min(ellipsis)..ellipsis).filter_map(|i| char::from_digit(i as u32, 36).map(private)));
            rest = after;
        } else if c.is_ascii_alphabetic() {
            out.push(c);
            rest = &rest[1..];
        } else {
            return malformed(format!("'{term}' is no term of an Einstein sum"));
        }
    }
    if out.len() == rank { Ok(out) } else { malformed(format!("'{term}' does not fit {rank} dimensions")) }
}

/// A label that no equation can write.
fn private(c: char) -> char {
    char::from_u32(0xe000 + c as u32).unwrap_or(c)
}

/// Without `->`: the hidden dimensions, then the labels that occur once, in alphabetical order.
fn implicit_output(labels: &[Vec<char>], ellipsis: usize) -> Vec<char> {
    let all: Vec<char> = labels.iter().flatten().copied().collect();
    let mut named: Vec<char> =
        all.iter().filter(|l| l.is_ascii_alphabetic() && all.iter().filter(|o| o == l).count() == 1).copied().collect();
    named.sort_unstable();
    let hidden = (0..ellipsis).filter_map(|i| char::from_digit(i as u32, 36).map(private));
    hidden.chain(named).collect()
}

/// Takes the diagonal of dimensions that share a label.
fn diagonal(b: &mut Builder, v: Val, mut labels: Vec<char>) -> Res<(Val, Vec<char>)> {
    let mut v = v;
    while let Some((i, j)) = (0..labels.len()).find_map(|j| labels[..j].iter().position(|l| *l == labels[j]).map(|i| (i, j))) {
        let dims = b.dims(v);
        if dims[i] != dims[j] {
            return malformed("a repeated label has two extents");
        }
        let rank = dims.len();
        let (row, column) = (b.iota(DType::I64, dims[i], i, rank)?, b.iota(DType::I64, dims[j], j, rank)?);
        let on = b.compare(CompareFn::Eq, row, column)?;
        let zero = b.like(v, 0.0)?;
        let kept = b.select(on, v, zero)?;
        v = b.reduce(Monoid::Sum, kept, &[j], false)?;
        labels.remove(j);
    }
    Ok((v, labels))
}

/// Sums over the dimensions whose label is not wanted.
fn sum_out(b: &mut Builder, (v, labels): (Val, Vec<char>), wanted: &dyn Fn(&char) -> bool) -> Res<(Val, Vec<char>)> {
    let drop: Vec<usize> = (0..labels.len()).filter(|i| !wanted(&labels[*i])).collect();
    let v = b.reduce(Monoid::Sum, v, &drop, false)?;
    Ok((v, labels.into_iter().filter(|l| wanted(l)).collect()))
}

/// The product of two operands, summed over labels that nobody wants any more.
fn contract(b: &mut Builder, x: (Val, Vec<char>), y: (Val, Vec<char>), wanted: &dyn Fn(&char) -> bool) -> Res<(Val, Vec<char>)> {
    let (lx, ly) = (x.1.clone(), y.1.clone());
    // A dimension of extent 1 broadcasts against the same label of the other operand: drop it.
    let (dx, dy) = (b.dims(x.0), b.dims(y.0));
    let unit = |labels: &[char], dims: &[usize], other: &[char], other_dims: &[usize]| -> Vec<bool> {
        let clash = |i: usize| other.iter().position(|l| *l == labels[i]).is_some_and(|j| other_dims[j] != 1);
        (0..labels.len()).map(|i| dims[i] == 1 && clash(i)).collect()
    };
    let (ux, uy) = (unit(&lx, &dx, &ly, &dy), unit(&ly, &dy, &lx, &dx));
    let x = squeeze_units(b, x, &ux)?;
    let y = squeeze_units(b, y, &uy)?;
    let x = sum_out(b, x, &|l| wanted(l) || y.1.contains(l))?;
    let y = sum_out(b, y, &|l| wanted(l) || x.1.contains(l))?;
    let position = |labels: &[char], l: char| labels.iter().position(|o| *o == l);
    let shared: Vec<char> = x.1.iter().copied().filter(|l| y.1.contains(l)).collect();
    let (batch, summed): (Vec<char>, Vec<char>) = shared.iter().partition(|l| wanted(l));
    let at = |labels: &[char], list: &[char]| -> Vec<usize> { list.iter().filter_map(|l| position(labels, *l)).collect() };
    let dot = DotGeneral {
        lhs_batch: at(&x.1, &batch),
        rhs_batch: at(&y.1, &batch),
        lhs_contract: at(&x.1, &summed),
        rhs_contract: at(&y.1, &summed),
    };
    let free = |labels: &[char]| labels.iter().copied().filter(|l| !shared.contains(l)).collect::<Vec<_>>();
    let labels: Vec<char> = batch.iter().copied().chain(free(&x.1)).chain(free(&y.1)).collect();
    if b.dtype(x.0) != b.dtype(y.0) {
        return unsupported("operands of two element types");
    }
    Ok((b.emit(dot, &[x.0, y.0])?, labels))
}

/// Drops marked dimensions of extent 1.
fn squeeze_units(b: &mut Builder, (v, labels): (Val, Vec<char>), drop: &[bool]) -> Res<(Val, Vec<char>)> {
    let dims = b.dims(v);
    let keep = |i: &usize| !drop[*i];
    let shape: Vec<usize> = (0..dims.len()).filter(keep).map(|i| dims[i]).collect();
    let kept = (0..dims.len()).filter(keep).map(|i| labels[i]).collect();
    Ok((b.reshape(v, &shape)?, kept))
}
