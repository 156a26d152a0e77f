//! Gated feed-forward layers, dense and of many experts.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // as in `activations`

use super::activations::{Activations, Gate};
use super::linear::Linear;
use super::place::Place;
use crate::EngineError;

/// `down(gate(x) · up(x))` (Shazeer, *GLU Variants Improve Transformer*, 2020), gate and up in one matrix.
pub(crate) struct Mlp {
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
    pub(crate) gate: Gate,
    /// Numbers between.
    pub(crate) width: usize,
}

impl Mlp {
    pub(crate) fn forward(&self, place: &Place, x: &Activations) -> Activations {
        let both = self.gate_up.forward(place, x);
        self.down
            .forward(place, &both.gated(place, self.gate, self.width))
    }
}

/// How a router turns logits into the weights of a few experts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Routing {
    /// Experts per token.
    pub(crate) chosen: usize,
    /// Scores are σ(logit) (DeepSeek-V3) instead of a softmax.
    pub(crate) sigmoid: bool,
    /// Added to the scores for choosing, not for weighing (DeepSeek-V3's balancing without a loss).
    pub(crate) correction: Option<Vec<f32>>,
    /// The experts stand in this many groups, of which only so many are looked at.
    pub(crate) groups: Option<Groups>,
    /// The weights are divided by their sum.
    pub(crate) normalise: bool,
    /// and multiplied by this.
    pub(crate) scale: f32,
}

/// Routing limited to some groups of experts (DeepSeek-V2, section 2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Groups, all of the same size.
    pub(crate) all: usize,
    /// Groups looked at: those with the highest score.
    pub(crate) chosen: usize,
    /// Best experts of a group whose scores make up the group's: 1 in V2, 2 in V3.
    pub(crate) judged_by: usize,
}

/// A layer of many experts, of which a router picks a few for each token.
pub(crate) struct Moe {
    pub(crate) router: Linear,
    pub(crate) routing: Routing,
    pub(crate) experts: Vec<Mlp>,
    /// Experts that every token takes.
    pub(crate) shared: Option<Mlp>,
}

impl Moe {
    pub(crate) fn forward(
        &self,
        place: &Place,
        x: &Activations,
    ) -> Result<Activations, EngineError> {
        let logits = self.router.forward(place, x).into_values()?;
        // Rows and weights of each expert.
        let mut visits: Vec<(Vec<usize>, Vec<f32>)> = vec![Default::default(); self.experts.len()];
        for (row, logits) in logits.chunks_exact(self.experts.len()).enumerate() {
            for (expert, weight) in self.routing.choose(logits) {
                visits[expert].0.push(row);
                visits[expert].1.push(weight);
            }
        }
        let mut sum = match &self.shared {
            Some(shared) => shared.forward(place, x),
            None => x.copy().scaled(0.0),
        };
        for (expert, (rows, weights)) in self.experts.iter().zip(&visits) {
            if !rows.is_empty() {
                let part = expert.forward(place, &x.select(rows));
                sum = sum.add_at(rows, weights, part);
            }
        }
        Ok(sum)
    }
}

impl Routing {
    /// Experts and their weights for one token.
    pub(crate) fn choose(&self, logits: &[f32]) -> Vec<(usize, f32)> {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut scores: Vec<f32> = if self.sigmoid {
            logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect()
        } else {
            logits.iter().map(|x| (x - highest).exp()).collect()
        };
        if !self.sigmoid {
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|score| *score /= sum);
        }
        let mut merits = scores.clone();
        if let Some(correction) = &self.correction {
            merits.iter_mut().zip(correction).for_each(|(m, c)| *m += c);
        }
        if let Some(groups) = self.groups {
            groups.keep_best(&mut merits);
        }
        let chosen = best(&merits, self.chosen);
        let sum: f32 = chosen.iter().map(|&expert| scores[expert]).sum();
        let divisor = if self.normalise { sum + 1e-20 } else { 1.0 };
        let weigh = |expert: usize| (expert, scores[expert] / divisor * self.scale);
        chosen.into_iter().map(weigh).collect()
    }
}

impl Groups {
    /// Strikes out the experts of all other groups.
    fn keep_best(self, merits: &mut [f32]) {
        let size = merits.len() / self.all;
        let judge =
            |group: &[f32]| -> f32 { best(group, self.judged_by).iter().map(|&e| group[e]).sum() };
        let judged: Vec<f32> = merits.chunks_exact(size).map(judge).collect();
        let kept = best(&judged, self.chosen);
        for (group, merits) in merits.chunks_exact_mut(size).enumerate() {
            if !kept.contains(&group) {
                merits.fill(f32::NEG_INFINITY);
            }
        }
    }
}

/// The numbers of the highest ones, highest first; the lower number among equals.
fn best(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn softmax(chosen: usize) -> Routing {
        Routing {
            chosen,
            sigmoid: false,
            correction: None,
            groups: None,
            normalise: true,
            scale: 1.0,
        }
    }

    #[test]
    fn the_likeliest_experts_share_all_of_the_weight() {
        let chosen = softmax(2).choose(&[0.0, 2.0, 1.0, -1.0]);
        assert_eq!(chosen[0].0, 1);
        assert_eq!(chosen[1].0, 2);
        assert!((chosen[0].1 + chosen[1].1 - 1.0).abs() < 1e-6);
        assert!((chosen[0].1 / chosen[1].1 - 1f32.exp()).abs() < 1e-5);
    }

    #[test]
    fn a_correction_changes_the_choice_but_not_the_weight() {
        let routing = Routing {
            sigmoid: true,
            correction: Some(vec![0.0, 0.0, 5.0]),
            normalise: false,
            ..softmax(1)
        };
        let chosen = routing.choose(&[3.0, 0.0, 0.0]);
        assert_eq!(chosen, [(2, 0.5)]);
    }

    #[test]
    fn only_the_best_groups_are_looked_at() {
        let routing = Routing {
            groups: Some(Groups {
                all: 2,
                chosen: 1,
                judged_by: 2,
            }),
            ..softmax(2)
        };
        // The best single expert stands in the group that is worse together.
        let chosen = routing.choose(&[3.0, -9.0, 2.5, 2.4]);
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [2, 3]);
    }
}
