"""Image similarity: PSNR, SSIM, LPIPS and mean pixel errors, for losses and for evaluation."""
