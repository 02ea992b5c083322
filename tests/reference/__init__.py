"""What tests compare with: models of true architectures, papers' formulas written out, the grad-cam package."""
